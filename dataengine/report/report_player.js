"use strict";
(() => {
  const block = document.getElementById("motion-data");
  if (!block) return;
  const { clips, bones, left_right: leftRight, head, hues, missing, fine, size } = JSON.parse(block.textContent);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const toggle = document.getElementById("toggle");
  let running = !still;

  const unpack = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Int16Array(bytes.buffer);
  };

  class Player {
    constructor(canvas, clip) {
      Object.assign(this, clip);
      this.canvas = canvas;
      this.points = unpack(clip.data);
      this.joints = leftRight.length;
      this.time = 0;
      this.visible = false;
      this.paused = false;
      canvas.addEventListener("click", () => { this.paused = !this.paused; this.draw(); });
      canvas.addEventListener("keydown", (event) => {
        if (event.key === " " || event.key === "Enter") { event.preventDefault(); this.paused = !this.paused; this.draw(); }
      });
      canvas.addEventListener("pointermove", (event) => {
        if (event.pointerType !== "mouse" || !this.paused) return;
        const box = canvas.getBoundingClientRect();
        this.time = ((event.clientX - box.left) / box.width) * (this.frames - 1) / this.fps;
        this.draw();
      });
      new ResizeObserver(() => this.fit()).observe(canvas);
      new IntersectionObserver((seen) => { this.visible = seen[0].isIntersecting; }).observe(canvas);
      this.fit();
    }
    fit() {
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      const width = this.canvas.clientWidth || size[0];
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(width * ratio * size[1] / size[0]);
      this.scale = this.canvas.width / size[0];
      this.draw();
    }
    step(seconds) {
      if (!this.visible || this.paused) return;
      this.time = (this.time + seconds) % Math.max(this.frames / this.fps, 0.1);
      this.draw();
    }
    at(person, frame, joint) {
      const place = ((person * this.frames + frame) * this.joints + joint) * 2;
      const x = this.points[place], y = this.points[place + 1];
      return x === missing || y === missing ? null : [x / fine, y / fine];
    }
    between(person, joint, position) {
      const first = Math.min(Math.floor(position), this.frames - 1), next = Math.min(first + 1, this.frames - 1);
      const a = this.at(person, first, joint), b = this.at(person, next, joint), t = position - first;
      return a && b && Math.hypot(a[0] - b[0], a[1] - b[1]) < 60 ? [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t] : a;
    }
    draw() {
      const pen = this.canvas.getContext("2d"), position = Math.min(Math.max(this.time * this.fps, 0), this.frames - 1);
      pen.setTransform(this.scale, 0, 0, this.scale, 0, 0);
      pen.clearRect(0, 0, size[0], size[1]);
      pen.lineCap = "round";
      pen.lineJoin = "round";
      pen.strokeStyle = "rgba(148,163,184,.22)";
      pen.lineWidth = 1;
      pen.strokeRect(...this.picture);
      for (let person = this.people - 1; person >= 0; person--) {
        const colours = hues[person % hues.length];
        this.trails(pen, person, position, colours);
        const now = leftRight.map((_, joint) => this.between(person, joint, position));
        bones.forEach(([a, b, side]) => {
          if (!now[a] || !now[b]) return;
          pen.strokeStyle = colours[side];
          pen.lineWidth = 5.5;
          pen.beginPath();
          pen.moveTo(...now[a]);
          pen.lineTo(...now[b]);
          pen.stroke();
        });
        now.forEach((point, joint) => {
          if (!point) return;
          pen.fillStyle = "#0b0f17";
          pen.beginPath();
          pen.arc(point[0], point[1], joint === head ? 11 : 5, 0, 7);
          pen.fill();
          pen.fillStyle = colours[leftRight[joint]];
          pen.beginPath();
          pen.arc(point[0], point[1], joint === head ? 9 : 3.4, 0, 7);
          pen.fill();
        });
      }
      pen.fillStyle = "rgba(148,163,184,.25)";
      pen.fillRect(0, size[1] - 3, size[0], 3);
      pen.fillStyle = hues[0][0];
      pen.fillRect(0, size[1] - 3, size[0] * position / Math.max(this.frames - 1, 1), 3);
      if (this.paused) {
        pen.fillStyle = "rgba(226,232,240,.85)";
        pen.fillRect(size[0] - 30, 14, 6, 18);
        pen.fillRect(size[0] - 18, 14, 6, 18);
      }
    }
    trails(pen, person, position, colours) {
      const now = Math.floor(position), first = Math.max(0, now - 9);
      this.ends.forEach((joint) => {
        for (let frame = first; frame < now; frame++) {
          const a = this.at(person, frame, joint), b = this.at(person, frame + 1, joint);
          if (!a || !b) continue;
          pen.globalAlpha = 0.4 * (frame - first + 1) / (now - first + 1);
          pen.strokeStyle = colours[leftRight[joint]];
          pen.lineWidth = 2.5;
          pen.beginPath();
          pen.moveTo(...a);
          pen.lineTo(...b);
          pen.stroke();
        }
      });
      pen.globalAlpha = 1;
    }
  }

  const ends = leftRight.map((_, joint) => joint).filter((joint) => bones.some((b) => b[1] === joint) && !bones.some((b) => b[0] === joint));
  const players = clips.map((clip, number) => new Player(document.getElementById(`motion-${number}`), { ...clip, ends }));
  toggle.addEventListener("click", () => {
    running = !running;
    toggle.textContent = running ? "Pause all" : "Play all";
  });
  toggle.textContent = running ? "Pause all" : "Play all";
  let before = performance.now();
  const tick = (now) => {
    const seconds = Math.min((now - before) / 1000, 0.1);
    before = now;
    if (running) players.forEach((player) => player.step(seconds));
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
})();
