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
from .exact_memorization import ExactMemorization
from .extraction_strength import ExtractionStrength
from .fade import FADE
from .fluency_standin import FluencyStandin
from .forget_quality import ForgetQuality
from .leak_at_k import LeakAtK
from .loss_attack import LossAttack
from .membership_auc import MembershipAUC, separation
from .min_k_attack import MinKAttack
from .min_k_plus_plus_attack import MinKPlusPlusAttack
from .normalized_probability import NormalizedProbability
from .priv_leak import PrivLeak, relative_leak
from .probability import Probability
from .reference_attack import ReferenceAttack
from .rouge_f1 import RougeF1
from .rouge_recall import RougeRecall
from .spv_attack import SpvAttack
from .squeezing import Squeezing
from .truth_ratio import TruthRatio
from .zlib_attack import ZlibAttack


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
