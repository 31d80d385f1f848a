from django.urls import path

from inference.predictions.api import CancelPredictionView, OnePredictionView, PredictionsView

urlpatterns = [
    path("predictions", PredictionsView.as_view()),
    path("predictions/<str:prediction>", OnePredictionView.as_view()),
    path("predictions/<str:prediction>/cancel", CancelPredictionView.as_view()),
]
