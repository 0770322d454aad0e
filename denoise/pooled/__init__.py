"""Preference votes that share their pair's truth: pooling, calibration, shrinkage, intervals.

A pair's truth has the prior log-odds τΔ, and every vote on it adds or takes its annotator's
log-odds λ = logit η, so that s = τΔ + Σ vλ and P(a is truly preferred) = σ(s). With one vote a
pair, τ = 1 and no prior this is Eq. 4 of RE-PO (Cao et al., arXiv 2509.24159).
"""
