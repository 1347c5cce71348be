"""What a server pod runs: one model at a time behind one vLLM, guarded and proved by its fingerprint.

`serve.py` supervises, `vllm_process.py` is one vLLM from start to end, `swap.py` says when weights may be exchanged in
place, `guard.py` is the gate inside vLLM, `control.py` the port that answers for it all, `bring.py` copies the package
into a server image that lacks it. The client is `psr_runtime.engine`.
"""
