"""Stage `headroom`: what there is to be won on each task. Reads the `headroom` artifacts of all splits.

Written to the results folder: headroom.csv (one row a task and expert) and figure_headroom as .png and .svg.
"""
