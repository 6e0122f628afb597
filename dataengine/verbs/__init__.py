"""The subcommands of `dataengine`; each calls a public function."""
