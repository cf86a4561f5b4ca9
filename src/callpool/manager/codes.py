"""Every code that a refusal may have, with its HTTP status: the API's stable vocabulary."""

from __future__ import annotations

from typing import Final

from callpool.licensing.errors import CallpoolError, LicenseError, TrustError

BY_STATUS: Final[dict[int, tuple[str, ...]]] = {
    400: (
        "above_maximum", "account_needed", "bad_apply", "bad_bulk_file", "bad_count",
        "bad_cursor", "bad_document", "bad_envelope", "bad_idempotency_key", "bad_json", "bad_key",
        "bad_message", "bad_mode", "bad_name", "bad_request", "bad_role", "bad_row", "bad_scope",
        "bad_serial", "bad_window", "half_of_pair", "no_tenants_here", "not_confirmed",
        "passwords_differ", "same_virtual_account",
        "tenant_needed", "tenants_needed", "unknown_entitlement", "unknown_kind",
        "unknown_license_type",
        "unknown_version", "weak_password",
    ),
    401: ("bad_credentials", "not_signed_in", "session_expired", "token_refused"),
    403: (
        "bad_signature", "certificate_expired", "certificate_revoked", "csrf_needed",
        "foreign_origin", "identity_revoked",
        "not_permitted", "not_registered", "token_expired", "token_revoked",
        "token_used_up", "unknown_signer", "wrong_password",
    ),
    404: (
        "not_found", "unknown_account", "unknown_alarm", "unknown_alert", "unknown_device",
        "unknown_instance", "unknown_line", "unknown_operator", "unknown_serial",
        "unknown_session", "unknown_tenant", "unknown_token", "unknown_virtual_account",
    ),
    405: ("method_not_allowed",),
    409: (
        "account_exists", "alert_holds", "already_pair", "applies_at_once", "device_exists",
        "device_not_managed", "duplicate_serial", "hitless_open", "hitless_running",
        "hitless_stopped", "last_administrator", "no_account", "no_active_unit", "no_hitless_run",
        "no_pair", "no_request", "no_restart_waits", "no_vendor_key", "not_enough_licenses",
        "nothing_to_install", "old_unit_may_be_on", "older_report", "operator_exists",
        "order_already_imported", "order_for_another_manager", "order_out_of_date",
        "pool_exceeded", "requests_waiting", "restart_waits", "serial_still_holds",
        "share_below_held", "stale_contact", "tenant_exceeded", "tenant_exists",
        "too_many_tokens", "too_many_waiting", "unit_locked", "unit_not_ready",
        "virtual_account_exists",
    ),
    412: ("changed_meanwhile",),
    413: ("body_too_large",),
    415: ("wrong_content_type",),
    422: ("idempotency_key_reused",),
    429: ("too_many_failures",),
    500: ("internal_error",),
    503: (
        "audit_head_unusable", "busy", "database_unusable", "grant_journal_unusable",
        "manager_restored", "overloaded", "too_many_sign_ins", "too_many_streams",
    ),
}  # fmt: skip
_STATUS: Final = {code: status for status, codes in BY_STATUS.items() for code in codes}


def status_of(error: CallpoolError) -> int:
    """Return the HTTP status of an error: the code decides, the class where it does not."""
    by_class = 403 if isinstance(error, TrustError) else 409
    return _STATUS.get(
        error.code, by_class if isinstance(error, LicenseError | TrustError) else 500
    )
