"""What is made of mutmut's list of results."""

from __future__ import annotations

from mutation import by_module

# As mutmut prints them: a function, a method (with `ǁ` around its class), a module of a folder; and a line of none.
LISTED = """
    l2snet.fuse.x_adaptive__mutmut_1: killed
    l2snet.fuse.x__sizes__mutmut_2: survived
    l2snet.fuse.x__sizes__mutmut_3: timeout
    l2snet.volume.xǁGeometryǁmatches__mutmut_10: killed
    l2snet.evaluation.metrics.x_measure__mutmut_7: no tests
3 files mutated: done
"""


def test_every_mutant_is_counted_in_its_module():
    assert by_module(LISTED) == {
        "l2snet.fuse": {"killed": 1, "survived": 1, "timeout": 1},
        "l2snet.volume": {"killed": 1},
        "l2snet.evaluation.metrics": {"no tests": 1},
    }
