"""Registration of the app with Django."""

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    """The app ``orders``."""

    name = "orders"
