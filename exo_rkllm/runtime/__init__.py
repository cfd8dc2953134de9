"""librkllmrt behind one typed session. `locate` finds it, `version` reads what it is, `abi` has its layouts."""
