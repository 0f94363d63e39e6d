"""Settings: where a configuration comes from, and how people write its values.

Pure. `trio_broker.config` says what a configuration is; here texts, TOML and environment variables
become one, and one becomes TOML again. Reading the file belongs to `trio_broker.host.config_file`.
"""
