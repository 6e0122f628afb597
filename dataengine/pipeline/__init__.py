"""What a build is made of: recipe, plan, ledger, engine."""
