"""The reviewed table of all routes: who may call each. A route that is not here fails test_matrix.py.

A value is the scope that a key or role must hold, or one of the words below.
"""

OPEN = "open: anybody, it shows nothing of anybody"
SIGNED_IN = "signed in: any person or key; the view itself decides what they see"
SESSION = "session: the person who is signed in by allauth, and nobody's key"
ANONYMOUS = "anonymous: part of signing up or in; acts on what the body itself proves"
SIGNED = "signed: Stripe, by a secret of its webhook; test_webhook.py"
OPERATORS = "operators: staff, by the admin's own login"

MANAGEMENT = {
    "GET /api/v1/me": SIGNED_IN,
    "GET /api/v1/organization": "organization:read",
    "PATCH /api/v1/organization": "organization:write",
    "GET /api/v1/audit-events": "audit:read",
    "GET /api/v1/members": "members:read",
    "GET /api/v1/members/{member}": "members:read",
    "PATCH /api/v1/members/{member}": "members:write",
    "DELETE /api/v1/members/{member}": SIGNED_IN,  # members:write, or oneself
    "GET /api/v1/invitations": "members:read",
    "POST /api/v1/invitations": "members:write",
    "POST /api/v1/invitations/accept": SIGNED_IN,  # whom it was sent to
    "GET /api/v1/invitations/{invitation}": "members:read",
    "DELETE /api/v1/invitations/{invitation}": "members:write",
    "GET /api/v1/keys": "keys:read",
    "POST /api/v1/keys": "keys:write",
    "GET /api/v1/keys/{key}": "keys:read",
    "PATCH /api/v1/keys/{key}": "keys:write",
    "DELETE /api/v1/keys/{key}": "keys:write",
    "POST /api/v1/keys/{key}/rotate": "keys:write",
    "GET /api/v1/models": "models:read",
    "POST /api/v1/models": "models:write",
    "GET /api/v1/models/{model}": "models:read",
    "PATCH /api/v1/models/{model}": "models:write",
    "DELETE /api/v1/models/{model}": "models:write",
    "GET /api/v1/models/{model}/versions": "models:read",
    "POST /api/v1/models/{model}/versions": "models:write",
    "GET /api/v1/models/{model}/versions/{version}": "models:read",
    "DELETE /api/v1/models/{model}/versions/{version}": "models:write",
    "GET /api/v1/models/{model}/aliases": "models:read",
    "GET /api/v1/models/{model}/aliases/{alias}": "models:read",
    "PUT /api/v1/models/{model}/aliases/{alias}": "models:write",
    "DELETE /api/v1/models/{model}/aliases/{alias}": "models:write",
    "POST /api/v1/models/{model}/aliases/{alias}/rollback": "models:write",
    "GET /api/v1/predictions": "predictions:read",
    "POST /api/v1/predictions": "predictions:write",
    "GET /api/v1/predictions/{prediction}": "predictions:read",
    "POST /api/v1/predictions/{prediction}/cancel": "predictions:write",
    "GET /api/v1/usage": "usage:read",
    "GET /api/v1/usage/calls": "usage:read",
    "GET /api/v1/limits": "limits:read",
    "GET /api/v1/billing/bill": "billing:read",
    "GET /api/v1/billing/usage": "billing:read",
    "GET /api/v1/billing/usage/calls": "billing:read",
    "GET /api/v1/billing/receipts": "billing:read",
    "GET /api/v1/billing/signing-keys": SIGNED_IN,  # the same for all
    "GET /api/v1/billing/alerts": "billing:read",
    "GET /api/v1/billing/budgets": "billing:read",
    "GET /api/v1/billing/budgets/organization": "billing:read",
    "PUT /api/v1/billing/budgets/organization": "billing:write",
    "DELETE /api/v1/billing/budgets/organization": "billing:write",
    "GET /api/v1/billing/budgets/{key}": "billing:read",
    "PUT /api/v1/billing/budgets/{key}": "billing:write",
    "DELETE /api/v1/billing/budgets/{key}": "billing:write",
    "GET /api/v1/billing/credit": "billing:read",
    "GET /api/v1/billing/spend": "billing:read",
    "POST /api/v1/quote": "predictions:write",
    "GET /api/v1/billing/plan": "billing:read",
    "POST /api/v1/billing/plan": "billing:write",
    "GET /api/v1/billing/plan/preview": "billing:read",
    "POST /api/v1/billing/cancel": "billing:write",
    "DELETE /api/v1/billing/cancel": "billing:write",
    "GET /api/v1/billing/prices": "billing:read",
    "POST /api/v1/billing/checkout": "billing:write",
    "POST /api/v1/billing/portal": "billing:write",
    "GET /api/v1/billing/invoices": "billing:read",
    "GET /api/v1/billing/invoices/{invoice}": "billing:read",
}

PAGES = {
    "GET /docs/": OPEN,
    "GET /docs/openapi.json": OPEN,
    "POST /stripe/webhook": SIGNED,
    "ANY /livez": OPEN,
    "ANY /readyz": OPEN,
    "ANY ^(?:api|v2)(?:/|$)": OPEN,  # 404 for whatever is not a route
    "GET /account/signup": OPEN,
    "GET /account/verify-email/{key}": ANONYMOUS,  # these act on what the link in a mail proves
    "POST /account/verify-email/{key}": ANONYMOUS,
    "GET /account/password/reset/{key}": ANONYMOUS,
    "POST /account/password/reset/{key}": ANONYMOUS,
    "ANY /admin/…": OPERATORS,  # every one of them; test_the_admin_is_the_operators_alone walks them
}

ACCOUNT = {
    "GET config": OPEN,
    "GET auth/session": SESSION,
    "DELETE auth/session": SESSION,
    "POST auth/reauthenticate": SESSION,
    "POST auth/code/confirm": ANONYMOUS,
    "POST auth/password/request": ANONYMOUS,
    "GET auth/password/reset": ANONYMOUS,
    "POST auth/password/reset": ANONYMOUS,
    "POST auth/login": ANONYMOUS,
    "POST auth/signup": ANONYMOUS,
    "GET auth/email/verify": ANONYMOUS,
    "POST auth/email/verify": ANONYMOUS,
    "POST auth/email/verify/resend": ANONYMOUS,
    "POST auth/phone/verify": ANONYMOUS,
    "POST auth/phone/verify/resend": ANONYMOUS,
    "POST account/password/change": SESSION,
    "GET account/email": SESSION,
    "POST account/email": ANONYMOUS,  # corrects the address of a sign-up under way; 409 without one
    "PUT account/email": SESSION,
    "PATCH account/email": SESSION,
    "DELETE account/email": SESSION,
    "GET account/phone": SESSION,
    "POST account/phone": ANONYMOUS,  # likewise
    "POST tokens/refresh": ANONYMOUS,
}
"""Under /_allauth/browser/v1/ and /_allauth/app/v1/ alike."""

GATEWAY = {
    "server": ("GET /v2", OPEN),
    "live": ("GET /v2/health/live", OPEN),
    "ready": ("GET /v2/health/ready", OPEN),
    "index": ("POST /v2/repository/index", "models:read"),
    "metadata": ("GET /v2/models/{model}", "models:read"),
    "model_ready": ("GET /v2/models/{model}/ready", "models:read"),
    "infer": ("POST /v2/models/{model}/infer", "predictions:write"),
    "predict": ("POST /api/v1/models/{model}/predict", "predictions:write"),
}
"""By the kind of a gateway's target."""
