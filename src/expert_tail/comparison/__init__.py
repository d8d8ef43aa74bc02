"""The comparison stage: sampling, selection and adaptation side by side, over all subsets: the paper's other tables and figures.

Written to the results folder: table4.csv (methods and their equivalent K), table6.csv and table7.csv (surprisal and speedup:
length-controlled, by quartiles), table9.csv (runs on a single task), table10.csv (equal budget), table11.csv (task by task),
table12.csv (regimes), adaptation_by_task.csv, statistics.json, and figures 1 (success against rollouts), 2 (the loops and their
numbers), 5 (trajectories), 6 (correlation along them) and 7 (regimes), each as .png and .svg. Tables 1, 2, 3, 5 and 8 and
figures 3 and 4 are those of `aggregate`.
"""
