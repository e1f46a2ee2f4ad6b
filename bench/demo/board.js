// The drawing board: one canvas for strokes or a picture; the server answers to its content. `element` is the
// component's root, `server` its Python functions; both come from Gradio.
const SIDE = 800; // pixels of an empty canvas
const LARGEST_PICTURE = 1000; // longer side that a picture is reduced to
const UNDO_STEPS = 30;

const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const results = element.querySelector(".results");
const note = element.querySelector(".note");
const picker = element.querySelector("input[type=file]");
const undone = [];
let asked = 0;
let stroke = null;
let empty = true;

function keep() {
  undone.push([canvas.width, canvas.height, pen.getImageData(0, 0, canvas.width, canvas.height), empty]);
  if (undone.length > UNDO_STEPS) undone.shift();
}

function blank(width, height) {
  canvas.width = width; // setting it also clears
  canvas.height = height;
  empty = true;
}

async function ask() {
  const mine = ++asked;
  results.parentElement.parentElement.classList.add("thinking");
  note.textContent = "";
  try {
    const answer = await server.answer(empty ? "" : canvas.toDataURL("image/png"));
    if (mine !== asked) return; // a newer drawing is on its way
    results.innerHTML = answer;
  } catch (error) {
    if (mine === asked) note.textContent = "No answer: is the command that serves this page still running?";
  }
  if (mine === asked) results.parentElement.parentElement.classList.remove("thinking");
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || stroke !== null) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  keep();
  empty = false;
  stroke = { id: event.pointerId, at: place(event) };
  pen.lineWidth = 0.022 * Math.max(canvas.width, canvas.height);
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = "#111827";
  line(stroke.at, stroke.at);
});

canvas.addEventListener("pointermove", (event) => {
  if (stroke === null || event.pointerId !== stroke.id) return;
  const steps = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const step of steps.length ? steps : [event]) {
    const next = place(step);
    line(stroke.at, next);
    stroke.at = next;
  }
});

for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    if (stroke === null || event.pointerId !== stroke.id) return;
    stroke = null;
    ask();
  });
}

function line(from, to) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

async function show(source) {
  let picture;
  try {
    picture = await createImageBitmap(source); // turned as the camera says
  } catch (error) {
    note.textContent = "That is no picture this browser can read. PNG, JPEG and WebP always work.";
    return;
  }
  keep();
  const scale = Math.min(1, LARGEST_PICTURE / Math.max(picture.width, picture.height));
  blank(Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale)));
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  empty = false;
  ask();
}

element.querySelector(".clear").addEventListener("click", () => {
  if (!empty) keep();
  blank(SIDE, SIDE);
  ask();
});

element.querySelector(".undo").addEventListener("click", () => {
  const before = undone.pop();
  if (before === undefined) return;
  blank(before[0], before[1]);
  pen.putImageData(before[2], 0, 0);
  empty = before[3];
  ask();
});

element.querySelector(".open").addEventListener("click", () => picker.click());
picker.addEventListener("change", () => {
  if (picker.files.length) show(picker.files[0]);
  picker.value = ""; // the same file may be chosen again
});

for (const sample of element.querySelectorAll(".samples img")) {
  sample.parentElement.addEventListener("click", () => show(sample));
}

canvas.addEventListener("dragover", (event) => event.preventDefault());
canvas.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData ? event.clipboardData.files : [])];
  const picture = files.find((file) => file.type.startsWith("image/"));
  if (picture) show(picture);
});

blank(SIDE, SIDE);
ask();
