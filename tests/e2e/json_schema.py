"""Checks a JSON document against the part of JSON Schema that docs/*.schema.json use, and that every field is in the
schema. Not a test itself; where the package jsonschema is there, its verdict is asked as well."""
import re

try:
    import jsonschema
except ImportError:
    jsonschema = None

KNOWN = {"$schema", "$ref", "title", "description", "type", "required", "properties", "items", "enum", "const",
         "pattern", "minimum", "definitions"}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
         "number": (int, float)}


def is_type(value, name):
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def findings(value, schema, root, at="$"):
    """What is wrong, a line each."""
    unknown = set(schema) - KNOWN
    if unknown:
        raise ValueError(f"the schema has {unknown} at {at}, which is not understood here")
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/definitions/")
        return findings(value, root["definitions"][name], root, at)
    found = []
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(is_type(value, name) for name in types):
        return [f"{at}: {value!r} is no {types}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: {value!r} is not {schema['const']!r}")
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        found.append(f"{at}: {value!r} is not like {schema['pattern']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{at}: {value!r} is below {schema['minimum']}")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{at}.{key} is missing" for key in schema.get("required", []) if key not in value]
        found += [f"{at}.{key} is not in the schema" for key in value if key not in properties]
        for key in value.keys() & properties.keys():
            found += findings(value[key], properties[key], root, f"{at}.{key}")
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            found += findings(item, schema["items"], root, f"{at}[{i}]")
    return found


def check(value, schema):
    found = findings(value, schema, schema)
    if jsonschema:
        jsonschema.Draft7Validator.check_schema(schema)
        found += [f"jsonschema: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(value)]
    return found
