"""From a model and a plan to an OpenVINO folder that is checked against the plan."""
