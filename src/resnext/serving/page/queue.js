// The requests under way: which picture goes to which model next, what waits, and what is tried again.

import { BusyError, GoneError, TokenError, predict } from "./server.js";

const AT_ONCE = 3; // requests under way
const MANY_BYTES = 15e6; // a server may close the connection on larger pictures before it answers

/**
 * Sends pictures to models. An answer {state, prediction, message, seconds...} of each picture and model is in
 * picture.answers; its state is pending, sent, waiting (the server is busy), done, failed, or gone (no server).
 */
export class Queue {
  #underWay = 0;
  #pauses = new Map(); // name of a model -> timer of the wait that the server asked for
  locked = false; // the server wants a token: nothing is sent

  /** listPictures gives the most urgent first, listModels the chosen ones; onChange and onAnswer are called back. */
  constructor({ listPictures, listModels, onChange, onAnswer, onToken }) {
    Object.assign(this, { listPictures, listModels, onChange, onAnswer, onToken });
  }

  findAnswer(picture, model) {
    if (!picture.answers.has(model.name)) picture.answers.set(model.name, { state: "pending" });
    return picture.answers.get(model.name);
  }

  /** Send what is still to be sent, a few requests at a time. */
  sendNext() {
    for (const picture of this.listPictures()) {
      for (const model of this.listModels()) {
        if (this.#underWay >= AT_ONCE || this.locked) return;
        const answer = this.findAnswer(picture, model);
        const due = answer.state === "pending" || answer.state === "waiting";
        if (due && !this.#pauses.has(model.name)) this.#send(picture, model, answer);
      }
    }
  }

  async #send(picture, model, answer) {
    this.#underWay += 1;
    answer.state = "sent";
    const started = performance.now();
    try {
      await readFirstByte(picture.file);
      const response = await predict(model, picture.file, picture.stop.signal);
      const roundTrip = performance.now() - started;
      await picture.measured;
      const [prediction] = response.predictions;
      if (prediction.error) Object.assign(answer, { state: "failed", message: prediction.error });
      else Object.assign(answer, { state: "done", response, prediction, roundTrip, milliseconds: response.milliseconds });
    } catch (error) {
      if (!picture.stop.signal.aborted) this.#handleFailure(error, picture, model, answer);
    } finally {
      this.#underWay -= 1;
      this.onChange();
      this.onAnswer(model, answer);
      this.sendNext();
    }
  }

  #handleFailure(error, picture, model, answer) {
    answer.message = error.message;
    if (error instanceof BusyError) {
      answer.state = "waiting";
      return this.#pause(model, error);
    }
    if (error instanceof TokenError) {
      answer.state = "pending";
      this.locked = true;
      return this.onToken(error);
    }
    answer.state = error instanceof GoneError ? "gone" : "failed";
    if (answer.state !== "gone") return;
    for (const other of this.listPictures()) { // what waits would fail in the same way
      for (const waiting of other.answers.values()) {
        if (waiting.state === "pending") Object.assign(waiting, { state: "gone", message: error.message });
      }
    }
    if (picture.file.size > MANY_BYTES) answer.message += " Or the picture is larger than the server takes.";
  }

  /** Wait as long as the server asked, counting down, then send what waits for this model. */
  #pause(model, { message, seconds }) {
    clearInterval(this.#pauses.get(model.name));
    const until = performance.now() + 1000 * seconds;
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      if (left <= 0) return this.#resume(model);
      for (const picture of this.listPictures()) {
        const answer = this.findAnswer(picture, model);
        const waits = answer.state === "pending" || answer.state === "waiting";
        if (waits) Object.assign(answer, { state: "waiting", message, seconds: left });
      }
      this.onChange();
    };
    this.#pauses.set(model.name, setInterval(tick, 1000));
    tick();
  }

  #resume(model) {
    clearInterval(this.#pauses.get(model.name));
    this.#pauses.delete(model.name);
    this.sendNext();
    this.onChange();
  }

  /** Try again now: this answer, and all that found no server. */
  retry(model, answer) {
    for (const picture of this.listPictures()) {
      for (const other of picture.answers.values()) {
        if (other.state === "gone" || other === answer) other.state = "pending";
      }
    }
    this.#resume(model);
  }
}

/** A file that is gone from the disk would look like a server that is gone. */
async function readFirstByte(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error("The file can no longer be read: it was moved or changed after it was chosen.");
  }
}
