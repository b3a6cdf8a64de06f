"""What is observed of a network: nothing is evaluated that is not looked at."""

from pararealize import Parareal
from pararealize.calibration.observe import guessed_schedule
from pararealize.schedule.parareal import parareal_schedule

METHOD = Parareal("thinned", "difference", guess="coarse")


def test_guesses_and_what_becomes_of_them_are_all_that_is_made() -> None:
    found = guessed_schedule(parareal_schedule(3, METHOD))
    assert found.verify().text().split("\n")[1:] == [
        "   0  u1.0 = coarse.1(x)",
        "   1  u2.0 = coarse.2(u1.0, quiet)",
        "   2  v2.0 = fine.2(u1.0)",
        "   3  v3.0 = fine.3(u2.0)",
    ]
    assert [(w.interface, w.new, w.old) for w in found.watches] == [
        (2, "v2.0", "u1.0"),
        (3, "v3.0", "u2.0"),
    ]
