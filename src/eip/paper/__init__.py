"""The paper's figures, each from one call: trained, evaluated, drawn, beside what the paper says.

Two scales. ``paper`` is the paper's data and network, for a GPU node and its time; ``small`` puts
samples that a laptop can take in their place, and shows that everything runs and where the trends
of the paper hold. What has been trained is not trained again, so a run can be stopped and called
again.
"""
