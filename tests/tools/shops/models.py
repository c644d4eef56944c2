"""Two shops are the tenants."""

from __future__ import annotations

from django_tenants.models import DomainMixin, TenantMixin  # type: ignore[import-not-found]

__all__ = ["Address", "Shop"]


class Shop(TenantMixin):
    auto_create_schema = False


class Address(DomainMixin):
    pass
