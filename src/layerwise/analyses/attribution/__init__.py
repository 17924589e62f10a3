"""Direct logit attribution: exact sums of what each part writes."""
