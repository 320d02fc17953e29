"""Processor time of `openvino_genai.LLMPipeline`: answers "prefill N" and "decode N" in ms a token.

``python pipeline_times.py FOLDER PROPERTIES``, in whatever environment the exported folder is to be run;
PROPERTIES is a JSON object, `{}` for the defaults of the client.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai

PROMPT = 256


class Clock(openvino_genai.StreamerBase):
    """When each token came, in processor time of all threads."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def write(self, token: Any) -> openvino_genai.StreamingStatus:
        self.times += [time.process_time()] * (len(token) if isinstance(token, list) else 1)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


def main(folder: str, properties: dict[str, Any]) -> None:
    pipeline = openvino_genai.LLMPipeline(folder, "CPU", **properties)
    random = np.random.default_rng(0)

    def generate(prompt: int, new: int) -> tuple[float, list[float]]:
        """Ids are new each time, so that no cache of prefixes knows them."""
        config = openvino_genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        ids, clock = ov.Tensor(random.integers(1, 1000, (1, prompt))), Clock()
        started = time.process_time()
        pipeline.generate(ids, config, clock)
        return started, clock.times

    generate(PROMPT, 4)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        what, count = line.split()[0], int(line.split()[1])
        started, times = generate(count, 1) if what == "prefill" else generate(PROMPT, count + 1)
        spent = times[0] - started if what == "prefill" else times[count] - times[0]
        print(json.dumps(1e3 * spent / count), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
