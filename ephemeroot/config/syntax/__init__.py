"""TOML, tables and single values: what a configuration may say, without looking anything up."""
