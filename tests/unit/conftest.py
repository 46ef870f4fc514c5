"""How hard Hypothesis tries: enough to find something, and still done in the time of a breath."""

from hypothesis import HealthCheck, Phase, settings

# Time limits and the "too slow" check would make tests fail on a busy machine for no fault of the code; explaining
# a failure takes longer than all other tests together.
settings.register_profile(
    "unit",
    max_examples=60,
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unit")
