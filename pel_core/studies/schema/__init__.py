"""What may stand in a study and in a configuration, as pydantic models: every key, its meaning, its form.

Start with `study_file` and `configuration`; `validation` is the one door, `generate` writes the JSON schema for editors.
"""
