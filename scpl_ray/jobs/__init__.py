"""Jobs that others can address: where they are, what they do, what they are told. `client` is
for the ones who ask, `post` for the job itself."""
