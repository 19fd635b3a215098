// A square crop over a canvas: drag it, drag its corner, or use the keys. The encoder looks at squares.
// `touched` says whether the person has moved it since the picture came.

const LEAST = 24; // pixels on the page

/** Fill a canvas with a part of a picture, transparency on white, as the server does. */
function draw(canvas, picture, x, y, width, height) {
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, x, y, width, height, 0, 0, canvas.width, canvas.height);
}

const jpeg = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));

export class Crop {
  constructor(canvas, box, handle) {
    Object.assign(this, { canvas, box, handle, x: 0, y: 0, side: 0, touched: false });
    box.addEventListener("pointerdown", (event) => this.#grab(event));
    box.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  /** Show a picture with the greatest square in its middle; `picture` is an ImageBitmap. */
  show(picture) {
    this.picture = picture;
    const scale = Math.min(1, 720 / Math.max(picture.width, picture.height));
    this.canvas.width = Math.max(1, Math.round(picture.width * scale));
    this.canvas.height = Math.max(1, Math.round(picture.height * scale));
    draw(this.canvas, picture, 0, 0, picture.width, picture.height);
    this.touched = false;
    this.whole();
  }

  /** Put the crop on the greatest square in the middle of a part of the picture, given in fractions of it. */
  place([left, top, right, bottom]) {
    const { width, height } = this.canvas;
    const side = Math.min((right - left) * width, (bottom - top) * height);
    this.#move(((left + right) * width - side) / 2, ((top + bottom) * height - side) / 2, side);
  }

  /** Put the crop on the whole picture. */
  whole() {
    this.place([0, 0, 1, 1]);
  }

  /** The whole picture as it is shown, at most 720 pixels a side, as a JPEG blob. */
  overview() {
    return jpeg(this.canvas);
  }

  /** The cropped part of the picture in its own resolution, at most 1024 pixels a side, as a JPEG blob. */
  blob() {
    const scale = this.picture.width / this.canvas.width;
    const source = this.side * scale;
    const out = document.createElement("canvas");
    out.width = out.height = Math.max(1, Math.round(Math.min(1024, source)));
    draw(out, this.picture, this.x * scale, this.y * scale, source, source);
    return jpeg(out);
  }

  #move(x, y, side) {
    const { width, height } = this.canvas;
    this.side = Math.max(Math.min(LEAST, width, height), Math.min(side, width, height));
    this.x = Math.max(0, Math.min(x, width - this.side));
    this.y = Math.max(0, Math.min(y, height - this.side));
    this.#draw();
  }

  #draw() {
    const zoom = this.canvas.clientWidth / this.canvas.width || 1;
    const place = { left: this.x, top: this.y, width: this.side, height: this.side };
    for (const [name, value] of Object.entries(place)) this.box.style[name] = `${value * zoom}px`;
    const whole = Math.min(this.canvas.width, this.canvas.height) || 1;
    this.box.setAttribute("aria-valuenow", Math.round((100 * this.side) / whole));
  }

  #grab(event) {
    event.preventDefault();
    this.touched = true;
    this.box.focus();
    this.box.setPointerCapture(event.pointerId);
    const zoom = this.canvas.clientWidth / this.canvas.width || 1;
    const start = { x: this.x, y: this.y, side: this.side, left: event.clientX, top: event.clientY };
    const resizing = event.target === this.handle;
    const follow = (moved) => {
      const dx = (moved.clientX - start.left) / zoom, dy = (moved.clientY - start.top) / zoom;
      if (!resizing) return this.#move(start.x + dx, start.y + dy, start.side);
      const room = Math.min(this.canvas.width - start.x, this.canvas.height - start.y);
      this.#move(start.x, start.y, Math.min(start.side + Math.max(dx, dy), room));
    };
    const release = () => this.box.removeEventListener("pointermove", follow);
    this.box.addEventListener("pointermove", follow);
    this.box.addEventListener("pointerup", release, { once: true });
    this.box.addEventListener("pointercancel", release, { once: true });
  }

  #key(event) {
    const step = event.shiftKey ? 20 : 4;
    const moves = {
      ArrowLeft: [-step, 0, 0], ArrowRight: [step, 0, 0], ArrowUp: [0, -step, 0], ArrowDown: [0, step, 0],
      "+": [0, 0, step], "-": [0, 0, -step],
    };
    const move = moves[event.key];
    if (!move && event.key !== "Escape") return;
    event.preventDefault();
    this.touched = true;
    if (!move) return this.whole();
    this.#move(this.x + move[0], this.y + move[1], this.side + move[2]);
  }
}
