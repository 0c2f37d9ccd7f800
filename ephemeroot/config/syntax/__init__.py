"""The syntax of the configuration: TOML, tables and single values, without any look-up."""
