"""Annotators by the thousand: their integrals in turn, and only of those who voted."""

import numpy as np
import pytest
from test_bethe import PRIORS, start

from denoise.pooled import bethe, calibrate, marginal, solve
from denoise.pooled.ballots import ballots
from denoise.pooled.maximum import maximum
from denoise.pooled.solve import Parameters
from denoise.simulate import simulate


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("per_annotator", "off"), [(3, 1e-9), (100, 1e-3)])
def test_a_few_at_a_time_is_as_all_at_once(per_annotator, off, prior, monkeypatch):
    """With many votes up to where Newton's method stops, which is when all of them are near."""
    s = simulate(10 * per_annotator, 20, 2, seed=5)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, 20)

    def found():
        fit = maximum(votes, 0.8, prior, start(20))
        beliefs = bethe.propagate(bethe.network(votes), 0.8, prior, start(20))
        slopes = bethe.slope_of_prior(bethe.network(votes), prior, beliefs)
        whole = bethe.integrate(votes, 0.8, prior, fit)
        guesses = marginal.guessers(votes, 0.8, fit.parameters, prior)
        return beliefs.value, slopes, whole.fit.parameters.theta, whole.log_odds, guesses

    expected = found()
    monkeypatch.setattr(marginal, "CHUNK", 3)
    for one, other in zip(found(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=off, atol=off)


@pytest.mark.parametrize("n_levels", [1, 2])
def test_annotators_without_votes_change_nothing_and_are_as_the_population(n_levels):
    s = simulate(400, 20, 2, seed=6)
    rng = np.random.default_rng(0)
    given = {"level": rng.integers(0, n_levels, len(s.pair)), "n_levels": n_levels}
    few = ballots(s.pair, s.annotator, s.sign, s.margin, 20, **given)
    many = ballots(s.pair, 3 * s.annotator + 1, s.sign, s.margin, 61, **given)
    voters, who = many.of_voters()
    np.testing.assert_array_equal(who, 3 * np.arange(20) + 1)
    for one, other in zip(voters, few, strict=True):
        np.testing.assert_array_equal(one, other)
    options = {"eta0": 0.9, "fit_temperature": True, "fit_prior": True}
    one, other = (
        calibrate.calibrate(
            votes, Parameters(start(n).theta, np.zeros(n_levels)), PRIORS[1], **options
        )
        for votes, n in ((few, 20), (many, 61))
    )
    assert one.temperature == other.temperature
    assert one.prior == other.prior
    theta = other.parameters.theta
    np.testing.assert_array_equal(theta[who], one.parameters.theta)
    mean = solve.sigmoid(np.delete(theta, who))
    np.testing.assert_allclose(mean, one.prior.population)
