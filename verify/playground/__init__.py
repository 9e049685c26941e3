"""The playground: a static web page that derives any layer in the browser, with Python in a web worker.

answers    answers the page's requests; runs in the browser and imports only derive and codegen
bundle     derive, codegen and their libraries as one archive of bytecode
pyodide    Python for browsers, from the npm registry
build      assembles everything in a folder
command    ``affdiv playground``
page/      the page, its style, and the worker
"""
