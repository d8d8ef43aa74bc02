"""`expert-tail plan`: what a configuration will take, before anything is started.

Jobs come from Snakemake's dry run, counts of samples and evaluations from the configuration, and time, memory and disk
from `rates.json`: measured rates, each with its machine and command, carried over to other sizes by stated rules. Every
figure is a range. What the policy will do (length of its answers, how many of them are the same) is the widest part of it.
"""
