"""A service that classifies images, one model for all its threads.

    VITRIM_MODEL=CHECKPOINT VITRIM_POLICY=runs/my/policy uvicorn --factory fastapi_service:service
    curl --data-binary @photo.jpg localhost:8000/predict
"""

from __future__ import annotations

import io
import os
from typing import Any

import vitrim
from fastapi import Body, FastAPI, HTTPException
from PIL import Image, UnidentifiedImageError


def create(model: vitrim.Model) -> FastAPI:
    """The service around a loaded model."""
    app = FastAPI(title="vitrim")

    # Not async: FastAPI runs it on a thread of its pool, and the GIL is released while the model computes.
    @app.post("/predict")
    def predict(image: bytes = Body(media_type="application/octet-stream"), top_k: int = 5) -> dict[str, Any]:
        try:
            decoded = Image.open(io.BytesIO(image)).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise HTTPException(400, f"not an image: {error}") from error
        (answer,) = model.predict([decoded], top_k=top_k)
        return {
            "classes": [
                {"class": best.class_index, "name": best.name, "probability": best.probability}
                for best in answer.classes
            ],
            "kept": [len(stage.positions) for stage in answer.stages],
            "gmacs": answer.gmacs,
        }

    @app.get("/model")
    def about() -> dict[str, Any]:
        return {"origin": model.origin, "policy": model.policy, "dtype": model.dtype}

    return app


def service() -> FastAPI:
    """The entry point for uvicorn."""
    return create(vitrim.load(os.environ["VITRIM_MODEL"], os.environ.get("VITRIM_POLICY")))
