"""The executor on a Ray cluster: the policy decides, Ray reserves nodes and keeps an agent on each."""
