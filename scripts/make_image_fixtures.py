#!/usr/bin/env python3
"""Writes the tiny images that crates/vitrim-data's tests decode, and Pillow's word on each.

    pip install pillow numpy && python3 scripts/make_image_fixtures.py

For every image `NAME` in crates/vitrim-data/tests/data/images, `NAME.rgb` is
`Image.open(NAME).convert("RGB")` as bytes, row-major, and `expected.json` has its size. Where EXIF turns
the image, `NAME.exif.rgb` is `ImageOps.exif_transpose` of it. Tests need the files alone, not Python.

Two departures. Of 16-bit grey, Pillow's convert("RGB") makes everything above 255 white; what is written is its
high byte, as for 16-bit colour, and as torchvision.io has it. What a GIF's first frame leaves uncovered is black,
where Pillow takes the palette's first colour.
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy
import PIL
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent.parent / "crates/vitrim-data/tests/data/images"
WIDTH, HEIGHT = 24, 16


def scene() -> numpy.ndarray:
    """[16, 24, 3] uint8: soft gradients with a disc, no symmetry, every channel different."""
    y, x = numpy.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    disc = ((x - 7) ** 2 + (y - 6) ** 2 < 20).astype(float)
    channels = [20 + 9 * x, 230 - 12 * y - 60 * disc, 60 + 4 * x + 5 * y]
    return numpy.clip(numpy.stack(channels, -1), 0, 255).astype(numpy.uint8)


def png(color: int, depth: int, rows: numpy.ndarray, chunks: dict[bytes, bytes]) -> bytes:
    """A PNG of kinds that Pillow does not write. `rows`: [H, bytes a row] uint8."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, color, 0, 0, 0)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    middle = b"".join(chunk(kind, body) for kind, body in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def saved(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def ycck(image: Image.Image) -> bytes:
    """A YCCK JPEG: CMYK samples that hold Y, Cb, Cr and K, under an Adobe marker that says so (transform 2)."""
    c, m, y, k = image.convert("CMYK").split()
    rgb = numpy.stack([255 - numpy.asarray(band).astype(int) for band in (c, m, y)], -1).astype(numpy.uint8)
    luma = Image.fromarray(rgb).convert("YCbCr").split()
    # Pillow inverts CMYK as Adobe does; what shall lie in the file is inverted here first.
    bands = [ImageOps.invert(band) for band in luma] + [k]
    data = bytearray(saved(Image.merge("CMYK", bands), "JPEG", quality=95, subsampling=0))
    marker = data.index(b"Adobe")
    assert data[marker - 4 : marker - 2] == b"\xff\xee"
    data[marker + 11] = 2
    return bytes(data)


def images() -> dict[str, bytes]:
    pixels = scene()
    rgb = Image.fromarray(pixels)
    grey = rgb.convert("L")
    alpha = Image.fromarray(numpy.tile(numpy.linspace(0, 255, WIDTH).astype(numpy.uint8), (HEIGHT, 1)))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    la = grey.copy()
    la.putalpha(alpha)
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright

    # 16 bits whose low bytes are far from the high ones, so that rounding and cutting differ.
    low = (pixels.astype(numpy.uint32) * 37 % 256).astype(numpy.uint16)
    wide = (pixels.astype(numpy.uint16) << 8) | low
    be = lambda array: array.astype(">u2").reshape(HEIGHT, -1).view(numpy.uint8)
    wide_rgba = numpy.concatenate([wide, wide[..., :1]], -1)
    levels = numpy.asarray(grey)
    bits = numpy.packbits(levels > 128, axis=1)
    nibbles = (levels >> 4)[:, ::2] << 4 | (levels >> 4)[:, 1::2]

    small = rgb.crop((0, 0, 10, 6)).quantize(8)
    offset = bytearray(saved(small, "GIF"))
    # The logical screen becomes larger than its frame, which moves right and down.
    offset[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    at = offset.index(b"\x2c")
    offset[at + 1 : at + 5] = struct.pack("<HH", 3, 2)

    transparent = palette.copy()
    transparent.info["transparency"] = 3
    frames = [rgb.rotate(90 * turn, expand=False) for turn in range(3)]
    return {
        "rgb_444.jpg": saved(rgb, "JPEG", quality=95, subsampling=0),
        "rgb_420.jpg": saved(rgb, "JPEG", quality=90, subsampling=2),
        "progressive.jpg": saved(rgb, "JPEG", quality=95, subsampling=0, progressive=True),
        "grey.jpg": saved(grey, "JPEG", quality=95),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG", quality=95),
        "ycck.jpg": ycck(rgb),
        "turned.jpg": saved(rgb, "JPEG", quality=95, subsampling=0, exif=exif),
        "rgb.png": saved(rgb, "PNG"),
        "grey.png": saved(grey, "PNG"),
        "grey_alpha.png": saved(la, "PNG"),
        "rgba.png": saved(rgba, "PNG"),
        "palette.png": saved(palette, "PNG"),
        "palette_alpha.png": saved(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "grey_1.png": png(0, 1, bits, {}),
        "grey_4.png": png(0, 4, nibbles, {}),
        "grey_16.png": png(0, 16, be(wide[..., 1]), {}),
        "grey_alpha_16.png": png(4, 16, be(wide[..., :2]), {}),
        "rgb_16.png": png(2, 16, be(wide), {}),
        "rgba_16.png": png(6, 16, be(wide_rgba), {}),
        "rgb_key.png": png(2, 8, pixels.reshape(HEIGHT, -1), {b"tRNS": struct.pack(">HHH", *map(int, pixels[0, 0]))}),
        "turned.png": saved(rgb, "PNG", exif=exif),
        "lossless.webp": saved(rgb, "WEBP", lossless=True),
        "alpha.webp": saved(rgba, "WEBP", lossless=True, exact=True),
        "lossy.webp": saved(rgb, "WEBP", quality=90),
        "turned.webp": saved(rgb, "WEBP", lossless=True, exif=exif),
        "animated.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        "rgb.bmp": saved(rgb, "BMP"),
        "palette.bmp": saved(palette, "BMP"),
        "grey.bmp": saved(grey, "BMP"),
        "rgba.bmp": saved(rgba, "BMP"),
        "palette.gif": saved(palette, "GIF"),
        "transparent.gif": saved(transparent, "GIF", transparency=3),
        "animated.gif": saved(frames[0].quantize(16), "GIF", save_all=True, append_images=[f.quantize(16) for f in frames[1:]]),
        "offset.gif": bytes(offset),
        "rgb.tif": saved(rgb, "TIFF"),
        "lzw.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tif": saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "grey.tif": saved(grey, "TIFF"),
        "rgba.tif": saved(rgba, "TIFF"),
        "cmyk.tif": saved(rgb.convert("CMYK"), "TIFF"),
        "grey_16.tif": saved(Image.fromarray(wide[..., 1]), "TIFF"),
        "bits.tif": saved(grey.convert("1"), "TIFF"),
        "turned.tif": saved(rgb, "TIFF", exif=exif),
    }


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, data in images().items():
        (FOLDER / name).write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            turns = image.getexif().get(0x0112, 1) != 1
            mode = image.mode
            if mode == "I;16":
                image = Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8))
            rgb = image.convert("RGB")
            if name == "offset.gif":
                covered = rgb.crop((3, 2, 13, 8))
                rgb = Image.new("RGB", rgb.size)
                rgb.paste(covered, (3, 2))
            turned = ImageOps.exif_transpose(image).convert("RGB")
        (FOLDER / f"{name}.rgb").write_bytes(rgb.tobytes())
        expected[name] = {"mode": mode, "size": rgb.size}
        if turns:
            (FOLDER / f"{name}.exif.rgb").write_bytes(turned.tobytes())
            expected[name]["exif_size"] = turned.size
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in expected.items())
    (FOLDER / "expected.json").write_text(f'{{\n  "pillow": "{PIL.__version__}",\n{lines}\n}}\n')


if __name__ == "__main__":
    main()
