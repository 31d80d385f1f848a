"""What we ask of Stripe and hear from it, through billing.stripe_gateway."""
