"""Django's settings, derived from saas.config. Nothing else reads the environment."""

import sys
from typing import Any
from urllib.parse import unquote, urlsplit

from celery.schedules import crontab
from pydantic import ValidationError

from saas.config import Config, describe
from saas.lib.logs import logging_config


def load_config() -> Config:
    """The configuration, or an exit with each wrong variable's name and reason."""
    try:
        return Config()
    except ValidationError as error:
        sys.exit(describe(error))


config = CONFIG = load_config()

SECRET_KEY = config.secret_key.get_secret_value()
DEBUG = config.debug
ALLOWED_HOSTS = [host.strip() for host in config.allowed_hosts.split(",") if host.strip()]
CSRF_TRUSTED_ORIGINS = [config.base_url] if config.base_url.startswith("https://") else []

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "allauth",
    "allauth.account",
    "allauth.headless",
    "tenants",
    "inference",
    "billing",
]
MIDDLEWARE = [
    "tenants.middleware.request_ids",
    "saas.lib.logs.request_line",
    "tenants.middleware.accepted_callers",
    "saas.lib.csp.content_security_policy",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "tenants.middleware.Refusals",
    "tenants.middleware.operators_in_admin",
    "tenants.middleware.AppErrors",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]
ROOT_URLCONF = "saas.urls"
CSRF_FAILURE_VIEW = "saas.pages.csrf_failed"
WSGI_APPLICATION = "saas.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def database(url: str, **extra: Any) -> dict[str, Any]:
    """A DATABASES entry from postgresql://user:password@host:port/name; a socket directory goes into `?host=/path`."""
    parts = urlsplit(url)
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(query.get("host", parts.hostname or "")),
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": 5},
        **extra,
    }


def mail_server(url: str) -> tuple[str, int, str, str, bool, bool]:
    """Host, port, user, password, STARTTLS, TLS from smtp://user:password@host:587 (STARTTLS with a password) or smtps://…:465."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "smtps"
    port = parts.port or (465 if is_tls else 587 if parts.password else 25)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return parts.hostname or "", port, user, password, bool(password) and not is_tls, is_tls


# Each alias is a database role (saas/local/roles.sql). Requests use `default`; the router keeps migrations on `owner`.
DATABASES = {
    "default": database(config.database_url, ATOMIC_REQUESTS=True),
    "owner": database(config.database_owner_url, CONN_MAX_AGE=0),
    "metering": database(config.database_metering_url),
    "ops": database(config.database_ops_url),
}
DATABASE_ROUTERS = ["tenants.databases.Router"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "tenants.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
SILENCED_SYSTEM_CHECKS = ["auth.W004"]  # e-mail is unique by its lower case, which the check does not recognise

# Sign-up and sign-in: allauth's headless API under /_allauth/. Its rate limits count in the lanes server, for all processes.
HEADLESS_ONLY = True
HEADLESS_FRONTEND_URLS = {
    "account_confirm_email": f"{config.base_url}/account/verify-email/{{key}}",
    "account_reset_password": f"{config.base_url}/account/password/reset",
    "account_reset_password_from_key": f"{config.base_url}/account/password/reset/{{key}}",
    "account_signup": f"{config.base_url}/account/signup",
}
ACCOUNT_ADAPTER = "tenants.signup.AccountAdapter"
ACCOUNT_SIGNUP_FORM_CLASS = "tenants.signup.OrganizationForm"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "optional"
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_SESSION_REMEMBER = True
# Narrow for one client's address, wide for one account over the same time: nobody locks another out from one address.
ACCOUNT_RATE_LIMITS = {"login_failed": "10/15m/ip,100/15m/key"}
SESSION_ENGINE = "tenants.sessions"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = config.base_url.startswith("https://")
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": config.lanes_url, "KEY_PREFIX": "web"}
}

DEFAULT_FROM_EMAIL = SERVER_EMAIL = config.email_from
EMAIL_FILE_PATH = str(config.data_dir / "mail")
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
if config.email_url:
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    EMAIL_HOST, EMAIL_PORT, EMAIL_HOST_USER, EMAIL_HOST_PASSWORD, EMAIL_USE_TLS, EMAIL_USE_SSL = mail_server(config.email_url)
    EMAIL_TIMEOUT = 10

LOGGING = logging_config(config.log_format)

DATA_UPLOAD_MAX_MEMORY_SIZE = 8 << 20  # of a form without its files: a manifest may carry a tokenizer

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = None  # whitenoise serves the packages' own files; nothing is collected
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tenants.authentication.ApiKeyAuthentication",
        "tenants.authentication.UserAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.permissions.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["tenants.bodies.JSONBodyParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "tenants.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,  # tenants.views.ManagementView reads `?format=`
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Model service",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": [],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},  # the validator is another host
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1/",  # so that operations are named and grouped by what comes next
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "saas.reference.complete"],
}

# kombu names a Unix socket otherwise than redis-py does.
CELERY_BROKER_URL = config.state_url.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "ops"
# A message is a hint, which sweepers repeat, so it is acknowledged when its task begins. One that is unacknowledged when the
# broker's connection breaks ends the worker, and its engine: kombu restores it on a channel that is closed already.
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 120}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE: dict[str, Any] = {
    "sweep-predictions": {"task": "inference.sweep_predictions", "schedule": 5.0, "options": {"expires": 5}},
    "sweep-intake": {"task": "inference.intake.sweep", "schedule": 10.0, "options": {"expires": 10}},
    "rotate-data-keys": {"task": "tenants.tasks.rotate_data_keys", "schedule": 3600.0, "options": {"expires": 3600}},
    "mail-alerts": {"task": "billing.tasks.mail_alerts", "schedule": 10.0, "options": {"expires": 10}},
    "forget-posts": {"task": "billing.tasks.forget_posts", "schedule": crontab(minute=23), "options": {"expires": 3600}},
    "put-given-plans": {"task": "billing.tasks.put_given_plans", "schedule": 15.0, "options": {"expires": 15}},
    "mail-states": {"task": "billing.tasks.mail_states", "schedule": 10.0, "options": {"expires": 10}},
    "sweep-stripe-events": {"task": "billing.tasks.sweep_stripe_events", "schedule": 15.0, "options": {"expires": 15}},
    "catch-up-with-stripe": {
        "task": "billing.tasks.catch_up_with_stripe",
        "schedule": 300.0,
        "kwargs": {"hours": 2},
        "options": {"expires": 300},
    },
    "forget-stripe-events": {
        "task": "billing.tasks.forget_stripe_events",
        "schedule": crontab(hour=4, minute=11),
        "options": {"expires": 600},
    },
    "catch-up-with-stripe-daily": {  # Stripe tries for three days
        "task": "billing.tasks.catch_up_with_stripe",
        "schedule": crontab(hour=4, minute=41),
        "kwargs": {"hours": 80},
        "options": {"expires": 600},
    },
    "verify-books": {"task": "billing.tasks.verify_books", "schedule": crontab(hour=3, minute=17), "options": {"expires": 600}},
    "push-usage": {"task": "billing.tasks.push_usage", "schedule": 30.0, "options": {"expires": 30}},
    "reconcile-usage": {"task": "billing.tasks.reconcile_usage", "schedule": 60.0, "options": {"expires": 60}},
    "forget-comparisons": {
        "task": "billing.tasks.forget_comparisons",
        "schedule": crontab(hour=4, minute=31),
        "options": {"expires": 600},
    },
    "settle-invoices": {"task": "billing.tasks.settle_invoices", "schedule": 15.0, "options": {"expires": 15}},
}

import saas.celery  # noqa: E402, F401  # in every process, so that tasks go to our broker
