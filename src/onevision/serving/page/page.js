// The search page: a photo, the crop that the server finds in it, one search as user A and one as user B, by the generator and, if asked, the cascade.
import { Crop } from "/page/crop.js";

const $ = (id) => document.getElementById(id);
const form = $("search"), crop = new Crop($("canvas"), $("crop"), $("handle"));
let pictures = false;

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

async function about() {
  const answer = await fetch("/page/about");
  if (!answer.ok) return say("The server is loading its bundle; reload the page in a moment.", true);
  const found = await answer.json();
  const off = found.cascade === "off" ? "; the cascade is off, it is of another catalogue than this bundle" : "";
  $("bundle").textContent = `bundle ${found.bundle}${off}`;
  $("beside").hidden = found.cascade !== "on";
  pictures = found.pictures;
  form.k.max = found.max_k;
  for (const user of found.users) $("users").append(new Option(user));
  for (const name of found.categories) form.category.append(new Option(name, name));
  $("samples").hidden = !found.samples.length;
  for (const id of found.samples) $("samples").append(sample(`/samples/${encodeURIComponent(id)}`));
}

/** A shopper's photo of the shop's own, to try out. */
function sample(address) {
  const button = $("sample").content.cloneNode(true).firstElementChild;
  button.firstElementChild.src = address;
  button.addEventListener("click", async () => {
    const answer = await fetch(address);
    if (answer.ok) take(await answer.blob());
    else say("This sample cannot be read.", true);
  });
  return button;
}

async function take(file) {
  if (!file) return;
  try {
    crop.show(await createImageBitmap(file, { imageOrientation: "from-image" }));
  } catch {
    return say("This file is no picture that the browser can read.", true);
  }
  $("stage").hidden = $("part").hidden = false;
  $("go").disabled = false;
  say("");
  await detect(crop.picture);
}

/** Start from the part in which the server sees the product, unless the person was faster or has another photo. */
async function detect(picture) {
  $("found").textContent = "Looking for the product ...";
  let found = "The product was looked for in vain: ";
  try {
    const answer = await fetch("/page/crop", { method: "POST", body: await crop.overview() });
    const { crop: part, error } = await answer.json();
    if (picture !== crop.picture) return;
    if (error) found += error.message;
    else if (crop.touched) found = "";
    else {
      crop.place(part);
      found = part.join() === "0,0,1,1" ? "No part was detected: the whole photo." : "Detected here; drag the box if it is wrong.";
    }
  } catch (error) {
    found += error.message;
  }
  if (picture === crop.picture) $("found").textContent = found;
}

async function ask(photo, user, system) {
  const body = new FormData();
  body.set("system", system);
  body.set("image", photo, "photo.jpg");
  body.set("k", form.k.value);
  if (user) body.set("user", user);
  for (const name of ["category", "min_price", "max_price"]) if (form[name].value) body.set(name, form[name].value);
  if (form.in_stock.checked) body.set("in_stock", "true");
  const answer = await fetch("/search", { method: "POST", body });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error.message);
  return found;
}

function sharedPrefix(a, b) {
  let count = 0;
  while (count < a.length && a[count] === b[count]) count += 1;
  return count;
}

function card(hit, own) {
  const node = $("hit").content.cloneNode(true), get = (name) => node.querySelector(name);
  if (pictures) {
    const image = get("img");
    image.addEventListener("error", () => image.remove());
    image.src = `/pictures/${encodeURIComponent(hit.item_id)}`;
    image.hidden = false;
  }
  get(".title").textContent = hit.title ?? hit.item_id;
  get(".price").textContent = hit.price.toFixed(2);
  get(".about").textContent = [hit.brand, hit.category, hit.item_id].filter(Boolean).join(" · ");
  const shared = sharedPrefix(hit.sid, own);
  hit.sid.forEach((code, level) => {
    const part = document.createElement("span");
    part.textContent = code;
    if (level < shared) part.className = "shared";
    get(".codes").append(part);
  });
  const codes = shared === 1 ? "1 code" : `${shared} codes`;
  const why = [`${codes} shared with the photo`, `similarity ${hit.similarity.toFixed(2)}`];
  if (hit.history) why.push(`history ${hit.history > 0 ? "+" : ""}${hit.history.toFixed(2)}`);
  get(".why").textContent = [...why, `score ${hit.score.toFixed(2)}`].join(", ");
  return node;
}

function show(title, found) {
  const node = $("answer").content.cloneNode(true);
  node.querySelector("h2").textContent = title;
  node.querySelector("p").textContent = [`photo's codes ${found.sid.join("-")}`, ...found.notes].join("; ");
  node.querySelector("ol").append(...found.hits.map((hit) => card(hit, found.sid)));
  $("answers").append(node);
  if (!found.hits.length) say("No item passes these filters.");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  $("go").disabled = true;
  say("Searching ...");
  try {
    const photo = await crop.blob();
    const users = form.b.value.trim() ? [form.a.value.trim(), form.b.value.trim()] : [form.a.value.trim()];
    const systems = form.cascade.checked ? ["generator", "cascade"] : ["generator"];
    const asked = users.flatMap((user) => systems.map((system) => ({ user, system })));
    const found = await Promise.all(asked.map(({ user, system }) => ask(photo, user, system)));
    $("answers").replaceChildren();
    say("");
    asked.forEach(({ user, system }, n) => {
      const title = user ? `As ${user}` : "As nobody known";
      show(systems.length > 1 ? `${title}: ${system}` : title, found[n]);
    });
  } catch (error) {
    say(error.message, true);
  } finally {
    $("go").disabled = false;
  }
});

$("whole").addEventListener("click", () => {
  crop.touched = true;
  crop.whole();
  $("found").textContent = "";
});
$("photo").addEventListener("change", (event) => take(event.target.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
about();
