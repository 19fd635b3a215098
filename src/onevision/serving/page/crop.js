// A square crop over a canvas: drag it, drag its corner, or use the keys. The encoder looks at squares.

const LEAST = 24; // pixels on the page

export class Crop {
  constructor(canvas, box, handle) {
    Object.assign(this, { canvas, box, handle, x: 0, y: 0, side: 0 });
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
    this.canvas.getContext("2d").drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    this.side = Math.min(this.canvas.width, this.canvas.height);
    this.x = (this.canvas.width - this.side) / 2;
    this.y = (this.canvas.height - this.side) / 2;
    this.#draw();
  }

  /** The cropped part of the picture in its own resolution, at most 1024 pixels a side, as a JPEG blob. */
  blob() {
    const scale = this.picture.width / this.canvas.width;
    const source = this.side * scale;
    const out = document.createElement("canvas");
    out.width = out.height = Math.max(1, Math.round(Math.min(1024, source)));
    const pen = out.getContext("2d");
    pen.fillStyle = "white"; // as the server lays transparency on white
    pen.fillRect(0, 0, out.width, out.height);
    pen.drawImage(this.picture, this.x * scale, this.y * scale, source, source, 0, 0, out.width, out.height);
    return new Promise((resolve) => out.toBlob(resolve, "image/jpeg", 0.92));
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
    if (!move) return;
    event.preventDefault();
    this.#move(this.x + move[0], this.y + move[1], this.side + move[2]);
  }
}
