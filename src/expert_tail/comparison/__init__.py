"""The comparison stage: sampling, selection and adaptation side by side, over all subsets: the paper's other tables and figures."""
