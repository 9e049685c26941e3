"""The playground: a folder of plain files in which a browser derives any layer, with Python in a worker.

answers    what the page asks and what it is told: runs in the browser, on derive and codegen alone
bundle     derive, codegen and the libraries that they need as one archive of bytecode
pyodide    the Python for browsers, from the npm registry
build      all of it put together in a folder
command    ``affdiv playground``
page/      the page, its style, and the worker
"""
