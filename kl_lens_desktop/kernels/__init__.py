"""Recurrences of hybrid models: each in its torch, graph and fixed-shape form.

A kernel stands in for one function of transformers' modelling modules. `kernels.table` lists them all.
"""
