# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics: numbers or text in, numbers out."""

from .aggregate import HarmonicMean, harmonic_mean, memorization_score
from .membership import (
    CombinedAttack,
    LossAttack,
    MembershipAUC,
    MinKAttack,
    MinKPlusPlusAttack,
    PrivLeak,
    ReferenceAttack,
    SpvAttack,
    StrangersAUC,
    ZlibAttack,
    relative_leak,
    separation,
)
from .memorization import (
    FADE,
    ExactMemorization,
    ExtractionStrength,
    ForgetQuality,
    NormalizedProbability,
    Probability,
    Squeezing,
    TruthRatio,
    UnlearningDepth,
)
from .text import FluencyStandin, LeakAtK, RougeF1, RougeRecall
