"""Counterfactual fairness: whether predictions change when terms for groups are swapped."""
