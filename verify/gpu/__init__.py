"""``python -m verify.gpu -o DIR``: every test and measurement that needs a GPU, within a few minutes.

    kernels    every generated GPU kernel against float64, at three shapes and every type
    speed      layers against torch's (plain, with normalisers, compiled) and other libraries'; measured peak rates
    sweep      many small networks trained as one stack, steps as CUDA graphs, against a plain loop
    training   the experiment ``fully-connected`` at the scale of the paper, for two minutes
    memory     the smallest cases under compute-sanitizer's memcheck

A stage is a list of parts (``part.py``), each measured in a worker process (``worker.py``), so that a GPU fault or a
crash ends only one part. ``run.py`` allots time to the stages and writes the results to DIR/STAGE.json after each part
(``stage_file.py``); the same command continues an interrupted run. ``summary.py`` judges the results.

``--device cpu`` is a dry run of the same parts at small sizes: Triton kernels in its interpreter, CUDA kernels on the
host. Its files are marked as a dry run, and contain no GPU results.
"""
