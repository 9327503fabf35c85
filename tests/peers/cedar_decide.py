"""Decides calls with cedarpy: reads the cases that tests/tests/cedar.rs writes, and prints an answer a call."""

import json
import re
import sys

import cedarpy


def ids(errors):
    """The policies that could not be evaluated: cedarpy only has them in the text."""
    found = [re.search(r"policy `(policy\d+)`", error) for error in errors]
    if not all(found):
        sys.exit(f"not about a policy: {errors}")
    return [match.group(1) for match in found]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    answers = []
    for case in cases:
        requests = [
            {
                "principal": f'Service::"{request["principal"]}"',
                "action": 'Action::"call"',
                "resource": 'Service::"prod/board"',
                "context": request["context"],
            }
            for request in case["requests"]
        ]
        results = cedarpy.is_authorized_batch(requests, "\n".join(case["policies"]), case["entities"])
        answers.append(
            [
                {
                    "allowed": result.decision == cedarpy.Decision.Allow,
                    "reasons": result.diagnostics.reasons,
                    "errors": ids(result.diagnostics.errors),
                }
                for result in results
            ]
        )
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
