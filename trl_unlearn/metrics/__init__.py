# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Metrics: numbers or text in, numbers out."""

from .aggregate import HarmonicMean, harmonic_mean, memorization_score
from .membership import (
    LossAttack,
    MembershipAUC,
    MinKAttack,
    MinKPlusPlusAttack,
    PrivLeak,
    ReferenceAttack,
    SpvAttack,
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
)
from .text import FluencyStandin, LeakAtK, RougeF1, RougeRecall


__all__ = [
    "FADE",
    "ExactMemorization",
    "ExtractionStrength",
    "FluencyStandin",
    "ForgetQuality",
    "HarmonicMean",
    "LeakAtK",
    "LossAttack",
    "MembershipAUC",
    "MinKAttack",
    "MinKPlusPlusAttack",
    "NormalizedProbability",
    "PrivLeak",
    "Probability",
    "ReferenceAttack",
    "RougeF1",
    "RougeRecall",
    "SpvAttack",
    "Squeezing",
    "TruthRatio",
    "ZlibAttack",
    "harmonic_mean",
    "memorization_score",
    "relative_leak",
    "separation",
]
