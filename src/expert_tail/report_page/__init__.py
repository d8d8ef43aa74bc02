"""The report_page stage: what was run and what came out, as one HTML file that needs no network.

Words about the result come from numbers (`headline`), words about the run from the metadata of artifacts (`account`).
Tables and figures are whatever files are given (`exhibits`); samples become the rows of an explorer (`explorer`).
The page itself is in `page/`: a Jinja template, a style sheet, and the script that joins them to DataTables.
"""
