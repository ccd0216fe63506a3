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

"""
Bootstrapping on tokens (BS-T): forget the answers and the tokens that the model finds likely beside them.

Models and data are given as to `bs_s`.
"""

from . import unlearn
from .exits import interruptible


def main(argv: list[str] | None = None, prog: str = "bs_t.py") -> None:
    """Run the script: as `bs_s`, with 0 as the default of `lambda_bss`."""
    with interruptible(prog):
        # Token beliefs only, also where options replace the recipe.
        unlearn.main(prog, __doc__, "archive/bs_t.yaml", defaults={"lambda_bss": 0.0}, argv=argv)
