"""``python -m verify.gpu -o DIR``: every test and measurement that needs a GPU, within a few minutes.

    kernels    every generated GPU kernel against float64, at three shapes and every type
    speed      layers against torch's, with normalisers, compiled, and peers; copy bandwidth and product peak
    sweep      many small networks trained as one stack, steps as CUDA graphs, against a plain loop
    training   the experiment ``fully-connected`` at the scale of the paper, for two minutes
    memory     the smallest cases under compute-sanitizer's memcheck

A stage is a list of parts (``part.py``), each measured in a worker process (``worker.py``), so that a fault of the GPU
or a crash ends one part and no other. ``run.py`` gives every stage its time and writes what is known to DIR/STAGE.json
after each part (``stage_file.py``); the same line goes on where it stopped. ``summary.py`` judges all of it.

With ``--device cpu`` the same parts run dry, at small sizes: Triton's kernels in its interpreter, the CUDA kernels on
the host. Its files say so, and hold nothing that was seen on a GPU.
"""
