"""The verbs of `dataengine-train`, each a call of a public function."""
