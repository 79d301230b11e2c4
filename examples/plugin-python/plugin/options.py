"""The options of the manifest: one table for the checks, the defaults and the schema."""

import json

from plugin.failure import Failure

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["path"],
    "properties": {
        "path": {"type": "string", "minLength": 1,
                 "description": "The data file, relative to the plugin's working directory."},
        "history_limit": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 100,
                          "description": "Versions of one key that history shows, tombstones included."},
        "change_limit": {"type": "integer", "minimum": 1, "maximum": 100_000_000, "default": 100_000,
                         "description": "Newest changes, over all keys, that a watch can resume from."},
        "max_value": {"type": "integer", "minimum": 1, "maximum": 8 << 20, "default": 1 << 20,
                      "description": "The largest value, in bytes."},
    },
}


def _pairs(pairs):
    names = [name for name, _ in pairs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise Failure("INVALID_ARGUMENT", "option " + ", ".join(json.dumps(n[:64]) for n in twice) + " stands twice")
    return dict(pairs)


def _wrong(name, rule, value):
    if rule["type"] == "string":
        if not isinstance(value, str):
            return f'option "{name}" must be a string'
        return None if value else f'option "{name}" is empty'
    if type(value) is not int:  # a bool is an int too
        return f'option "{name}" must be a whole number'
    if not rule["minimum"] <= value <= rule["maximum"]:
        return f'option "{name}" must be between {rule["minimum"]} and {rule["maximum"]}'
    return None


def parse(raw):
    """The options with their defaults, or a Failure that tells everything that is wrong."""
    try:
        given = json.loads(raw or b"{}", object_pairs_hook=_pairs)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise Failure("INVALID_ARGUMENT", "the options are not valid JSON") from None
    if not isinstance(given, dict):
        raise Failure("INVALID_ARGUMENT", "the options are not a JSON object")
    rules, problems = SCHEMA["properties"], []
    unknown = [json.dumps(n[:64]) for n in given if n not in rules]
    if unknown:
        problems.append("unknown option " + ", ".join(unknown))
    problems += [f'option "{name}" is missing' for name in SCHEMA["required"] if name not in given]
    problems += filter(None, (_wrong(name, rules[name], value) for name, value in given.items() if name in rules))
    if problems:
        raise Failure("INVALID_ARGUMENT", "; ".join(problems), hint="the options are " + ", ".join(sorted(rules)))
    return {name: given.get(name, rule.get("default")) for name, rule in rules.items()}


def canonical(raw):
    """One text for one JSON value, whatever the order of its names and its spaces."""
    return json.dumps(json.loads(raw or b"{}"), sort_keys=True)
