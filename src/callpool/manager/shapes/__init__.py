"""The forms of what the operators' API answers, as its OpenAPI document says and tests hold."""
