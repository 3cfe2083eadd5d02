"""Jobs that others can address: where they are, what they do, what they are told.

`client` is for those who ask, `post`, `board` and `record` for the job itself.
"""

from scpl_ray.engine.token import present_token

present_token()
