"""Settings of a run by what they set; `hiperjax.config` puts them together."""
